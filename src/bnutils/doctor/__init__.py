"""The doctor: finds what is wrong with the batch normalization in a Keras model, and mends it.

Needs TensorFlow.

- `audit` says what is wrong with a model, and what would mend it; `AuditCallback` does so while it
  trains, and `bnutils.testing.assert_sound` in a test suite.
- `recalibrate` estimates the moving statistics anew, from data.
- `freeze_bn` and `unfreeze_bn` stop batch normalization from learning, and prove it.
- `fold` merges batch normalization into the layers around it; `fold_plan` says which, beforehand.
- `open_model` reads model files of Keras 3 and Keras 2; `convert` writes them anew for Keras 3.
- `to_pytorch` and `from_pytorch` carry the parameters of one layer between the two conventions.
"""

from bnutils._extras import extra
from bnutils.conventions import from_pytorch, to_pytorch

with extra("doctor"):
    from bnutils.doctor.audit import audit
    from bnutils.doctor.callback import AuditCallback
    from bnutils.doctor.conversion import Conversion, convert
    from bnutils.doctor.files import ModelFile, open_model
    from bnutils.doctor.fold import Folding, fold, fold_plan
    from bnutils.doctor.freeze import Freezing, freeze_bn, unfreeze_bn
    from bnutils.doctor.recalibrate import Recalibration, recalibrate
    from bnutils.doctor.report import Diagnosis, Report

__all__ = [
    "AuditCallback",
    "Conversion",
    "Diagnosis",
    "Folding",
    "Freezing",
    "ModelFile",
    "Recalibration",
    "Report",
    "audit",
    "convert",
    "fold",
    "fold_plan",
    "freeze_bn",
    "from_pytorch",
    "open_model",
    "recalibrate",
    "to_pytorch",
    "unfreeze_bn",
]
