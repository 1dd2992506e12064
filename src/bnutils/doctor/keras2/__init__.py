"""What Keras 2 wrote into a model's file, said in the words of Keras 3.

Keras 3 reads part of it by itself and stops at the rest: `axis: [3]` of batch normalization,
`groups` of a depthwise convolution, the count of calls of a model inside a model. Configs are
plain dicts and lists here, as JSON gives them; no code of the file runs.
"""

from bnutils.doctor.keras2.configs import Translation
from bnutils.doctor.keras2.hard_sigmoid import steepen_hard_sigmoids
from bnutils.doctor.keras2.training import compile_arguments
from bnutils.doctor.keras2.weights import assign_weights, weight_groups

__all__ = [
    "Translation",
    "assign_weights",
    "compile_arguments",
    "steepen_hard_sigmoids",
    "weight_groups",
]
