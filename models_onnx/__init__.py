"""The shipped model bundles, and where they come from: the simulated farm, the training and the evaluation."""
