"""Stand-ins for engines (vLLM, SGLang, Megatron) that a framework imports and that have no part in advantages."""

import importlib.abc
import importlib.machinery
import sys
import types


class _Anything(type):
    """A class to inherit from, call, decorate with or look into."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)

    def __iter__(cls):
        return iter(())


def _anything(name):
    return _Anything(
        name, (), {"__init__": lambda self, *args, **kwargs: None, "__call__": lambda self, *args: args[0]}
    )


class _Module(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names):
        self.names = names

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


def stand_in(*names):
    """Let these packages, and all in them, be imported as modules in which every name is there and does nothing."""
    sys.meta_path.append(_Finder(set(names)))  # at the end: what is installed comes first
