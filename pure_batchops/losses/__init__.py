"""From a model and a criterion to the loss of each sample.

sample_losses.py   the public factory
criterion.py       a criterion for each sample of a batch of outputs
curvature.py       the Hessian of a criterion by the outputs, in closed form
evaluated.py       the one way in which a loss is called
recognized.py      which of torch's criteria a criterion is
refused.py         criteria that are refused for their options
agreement.py       a criterion must say of a batch what it says of its samples
outputs.py         checks of what a model returns
checked.py         checks of what a loss returns
shared.py          batches that also hold tensors which all samples share
"""
