"""What kind of model file a file is, and the next step if it is none that Keras 3 reads.

Nothing here needs TensorFlow: a wrong name is refused without waiting for it.
"""

import stat
from pathlib import Path

__all__ = ["WEIGHTS_ONLY", "file_kind"]

WEIGHTS_ONLY = (
    "weights without a model. Next step: build the model with the code it was trained with, "
    "model.load_weights(...), then model.save('model.keras')"
)
_HDF5, _ZIP, _GZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x1f\x8b"
_EXPORTED = (
    "It holds the computation without the layers. Next step: go back to the Keras model it was "
    "made from"
)
_TFJS = (
    "model of TensorFlow.js. Next step: pip install tensorflowjs, then tensorflowjs_converter "
    "--input_format tfjs_layers_model --output_format keras model.json model.h5; a graph model has "
    "no layers any more: go back to the model it was made from"
)


def file_kind(path: Path) -> str:
    """Say what kind of model file this is, by its first bytes.

    Args:
        path: the file.

    Returns:
        "zip" (what .keras files are) or "hdf5" (what .h5 files are).

    Raises:
        ValueError: if it is another file, or none; the message says what it is, and the next step.

    Example:
        >>> file_kind(Path("none.keras"))
        Traceback (most recent call last):
        ValueError: there is no file none.keras
    """
    try:
        if path.is_dir():
            raise ValueError(f"{path} is {_folder(path)}")
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path} is a device or a pipe. Expected a file")
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise ValueError(f"there is no file {path}") from error
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if head.startswith(_HDF5):
        return "hdf5"
    if head.startswith(_ZIP) and not path.name.endswith((".pt", ".pth", ".npz")):
        return "zip"
    raise ValueError(f"{path} is {_other(path, head)}")


def _folder(path: Path) -> str:
    if (path / "saved_model.pb").exists() or (path / "saved_model.pbtxt").exists():
        return (
            "a SavedModel, which Keras 3 cannot open as a model. Next step: if Keras 2 wrote it, "
            "in an environment with Keras 2 (pip install tensorflow==2.15.1) load it with "
            "tf.keras.models.load_model and save it as an .h5 file; one that model.export wrote "
            "has no layers any more: go back to the model that was exported"
        )
    if (path / "config.json").exists() and (path / "model.weights.h5").exists():
        return (
            "the folder of a .keras file that was unpacked. Next step: inside it, "
            "zip -r ../model.keras ."
        )
    if (path / "Manifest.json").exists():
        return f"a Core ML package. {_EXPORTED}"
    if (path / "model.json").exists():
        return f"a folder with a {_TFJS}"
    return "a folder. Expected what model.save('model.keras') or model.save('model.h5') writes"


def _other(path: Path, head: bytes) -> str:
    name, text = path.name.lower(), head.lstrip().lower()
    if head[4:8] == b"TFL3" or name.endswith(".tflite"):
        return f"a TFLite model. {_EXPORTED}"
    if name.endswith(".onnx"):
        return f"an ONNX model. {_EXPORTED}"
    if name.endswith((".pb", ".pbtxt")):
        return f"a TensorFlow graph. {_EXPORTED}; of a SavedModel give the folder"
    if name.endswith((".mlmodel", ".mlpackage")):
        return f"a Core ML model. {_EXPORTED}"
    if name.endswith((".pt", ".pth", ".safetensors", ".ckpt", ".bin")):
        return (
            "no file of Keras, but of PyTorch or another framework. Next step: build the model in "
            "Keras; from_pytorch carries over the batch normalization layers"
        )
    if name.endswith((".weights.json", ".index")) or ".data-0" in name:
        return WEIGHTS_ONLY
    if name.endswith((".pkl", ".pickle", ".joblib")):
        return (
            "a pickle, which would run code. Next step: where it was made, load it and "
            "model.save('model.keras')"
        )
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself. Next step: git lfs pull"
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page: the download failed. Next step: download it again"
    if head.startswith(_GZIP) or name.endswith((".tar", ".7z", ".rar")):
        return "an archive. Next step: unpack it"
    if text.startswith(b"{") and b"modeltopology" in text:
        return f"a {_TFJS}"
    if text.startswith(b"{"):
        return (
            "text in JSON, at most the architecture of a model, without weights. Next step: "
            "keras.models.model_from_json, then load_weights, then model.save('model.keras')"
        )
    if not head:
        return "empty"
    return (
        "no model of Keras. Expected what model.save('model.keras') or model.save('model.h5') "
        "writes"
    )
