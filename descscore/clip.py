"""open_clip's models, imported without the packages that only other models need.

``import open_clip`` imports all of transformers, timm, torchvision and torch's compiler. This takes
four seconds, for code that scoring never runs. This module defers the modules in :data:`_DEFERRED`:
they exist in ``sys.modules``, but their code runs only when a program asks one of them for a name
that it lacks. A later ``import open_clip`` or ``import torchvision`` still works as usual.

Import open_clip's names from this module, not from open_clip.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_STAND_INS = (
    "timm.models._hub",
    "open_clip.coca_model",  # imports transformers, like the next one
    "open_clip.hf_model",
    "open_clip.loss",
    "open_clip.pretrained",
)
"""Deferred modules from which open_clip and timm import functions and classes by name. They call these only
for models of other kinds."""
_DEFERRED = (
    "ftfy",  # mends texts that are not plain ASCII
    "torchvision",
    "torchvision.models",
    "torchvision.ops",  # imports torch's compiler
    "timm",
    "timm.data",
    "timm.models",  # imports over a hundred kinds of model
    "open_clip",
    *_STAND_INS,
)
"""Packages stand before their modules."""

_pending: set[str] = set()
_lock = RLock()


class _Deferred(ModuleType):
    """A module whose code runs when a program first asks for a name that the module lacks."""

    def __getattr__(self, name: str) -> Any:
        # Programs that inspect all modules ask for other dunder names; these must not run the code.
        needs_code = not name.startswith("__") or name in ("__version__", "__path__")
        with _lock:
            if self.__name__ in _pending and needs_code:
                if _importing and self.__name__ in _STAND_INS:
                    return _StandIn(self.__name__, name)
                _run(self.__name__)
                return getattr(self, name)
            if name in vars(self):  # another thread has run the code in the meantime
                return vars(self)[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class _StandIn:
    """Replaces a function or class of a deferred module; a call runs the module's code and the original."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(sys.modules[self.module], self.name)(*args, **kwargs)


def _defer(name: str) -> None:
    spec = find_spec(name)
    if spec is None:  # not installed, or of another version
        return
    module = sys.modules[name] = module_from_spec(spec)
    module.__class__ = _Deferred
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    _pending.add(name)


def _run(name: str) -> None:
    """Run a deferred module's code: after its package's code, and before its submodules' code."""
    parent = name.rpartition(".")[0]
    if parent in _pending:
        _run(parent)
    if name not in _pending:
        return
    module, spec = sys.modules[name], vars(sys.modules[name])["__spec__"]
    _pending.remove(name)
    try:
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        spec.loader.exec_module(module)
    except BaseException:
        _pending.add(name)
        raise
    module.__class__ = ModuleType
    _replace_stand_ins(module)
    for child in sorted(_pending):
        if child.startswith(f"{name}."):
            _run(child)


def _replace_stand_ins(module: ModuleType) -> None:
    """Replace the stand-ins that modules imported from ``module`` by its real functions and classes."""
    family = module.__name__.partition(".")[0]
    for user in [user for name, user in sys.modules.items() if name.partition(".")[0] == family]:
        for name, value in list(vars(user).items()):
            if isinstance(value, _StandIn) and value.module == module.__name__:
                setattr(user, name, getattr(module, value.name))


def timm_factory(name: str) -> Callable[..., Any]:
    """``timm.create_model``; imports the code of all kinds of model only for a kind not registered yet."""
    registered = importlib.import_module("timm.models._registry").is_model(name)
    module = importlib.import_module("timm.models._factory" if registered else "timm.models")
    create: Callable[..., Any] = module.create_model
    return create


def _create_timm_model(name: str, *args: Any, **kwargs: Any) -> Any:
    return timm_factory(name)(name, *args, **kwargs)


def _import_open_clip() -> None:
    """Import open_clip's models and factory; does not defer packages that are already imported."""
    loaded = {name.partition(".")[0] for name in sys.modules}
    for name in _DEFERRED:
        if name.partition(".")[0] not in loaded:
            _defer(name)
    if "timm" in _pending:
        timm: Any = sys.modules["timm"]
        timm.__version__ = importlib.import_module("timm.version").__version__
        timm.create_model = _create_timm_model
        constants = vars(importlib.import_module("timm.data.constants"))
        vars(timm.data).update({name: value for name, value in constants.items() if name.isupper()})
        importlib.import_module("timm.models._factory")
        importlib.import_module("timm.models.efficientnet")  # the image tower of the bundled model
    importlib.import_module("open_clip.factory")
    for name in _pending:
        # Importing a submodule asks for the package's path. That runs the package's code first.
        vars(sys.modules[name]).pop("__path__", None)


_importing = True
_import_open_clip()
_importing = False

# ruff: noqa: E402
from open_clip.constants import OPENAI_DATASET_MEAN as OPENAI_DATASET_MEAN
from open_clip.constants import OPENAI_DATASET_STD as OPENAI_DATASET_STD
from open_clip.factory import create_model_and_transforms as create_model_and_transforms
from open_clip.factory import get_model_config as get_model_config
from open_clip.factory import list_models as list_models
from open_clip.model import CLIP as CLIP
from open_clip.model import CustomTextCLIP as CustomTextCLIP
from open_clip.model import get_model_preprocess_cfg as get_model_preprocess_cfg
from open_clip.tokenizer import SimpleTokenizer as SimpleTokenizer
from open_clip.tokenizer import get_clean_fn as get_clean_fn
from open_clip.transformer import ResidualAttentionBlock as ResidualAttentionBlock
from open_clip.transformer import TextTransformer as TextTransformer
from open_clip.transformer import Transformer as Transformer
from open_clip.transformer import VisionTransformer as VisionTransformer

pretrained: Any = importlib.import_module("open_clip.pretrained")
"""Downloads and names of pretrained weights; the first use imports all of open_clip."""
ftfy: Any = importlib.import_module("ftfy")
"""Mends texts; the first use imports it."""


_RANDOM = ("normal_", "uniform_", "kaiming_uniform_")
"""Names of the functions, of torch and of its tensors, that draw random weights."""


class NoRandomWeights(TorchFunctionMode):
    """Within it, a model is built with zeros where its weights would be drawn at random, which takes long."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") not in _RANDOM:
            return function(*args, **(kwargs or {}))
        # Zeros, since torch's trunc_normal_ draws again until no value is out of bounds.
        with torch.no_grad():
            return (args[0] if args else kwargs["tensor"]).zero_()


def text_tower(clip: Any) -> Any:
    """The module that holds the text tower: the model itself (``CLIP``), or its part ``text``."""
    return getattr(clip, "text", clip)
