"""The courier: carries what the agent stored to the cloud, and may die at any time without the house noticing."""
