"""From a model and a criterion to the loss of each sample."""
