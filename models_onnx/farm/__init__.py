"""The simulated farm: physics, birds, sensors and faults."""
