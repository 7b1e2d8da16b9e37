"""YAML that is written as it was read: comments, anchors, and numbers and words in the form that they have.

What a service makes of ``no``, ``22:22`` or ``0644`` depends on its version of YAML, so they are not to be touched.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLWarning
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, ScalarString

_DIRECTIVE = re.compile(r"(?:[ \t\r]*(?:#.*)?\n|%(?!YAML\b).*\n)*%YAML\b")
"""The beginning of a text whose head says of which version it is."""


def load(text: str) -> Any:
    """The document, of dictionaries and lists that know how they were written; aliases are the same object.

    Raises
    ------
    ValueError
        The text is no YAML, or is of an older version by its own words, in which services may read other values than
        would be written here; in one line.
    """
    if _DIRECTIVE.match(text):
        raise ValueError("a %YAML directive is not kept; leave it out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", YAMLWarning)  # an anchor may be used again
            return _yaml().load(text)
    except MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        # The library shows both values of a key that is there twice; they may be secrets.
        problem = str(error.problem or error.context).partition(" with value ")[0]
        raise ValueError(f"{problem}{where}") from None
    except (YAMLError, RecursionError) as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    except AttributeError:  # of the library, as the next
        raise ValueError("a table is merged into itself") from None
    except LookupError:
        raise ValueError("it holds a value that is not of its tag, or is of an unknown version") from None


def dump(tree: Any) -> str:
    stream = io.StringIO()
    _yaml().dump(tree, stream)
    return stream.getvalue()


def quoted(text: str, like: object = "") -> str:
    """``text`` as all versions of YAML read it: in the quotes, or the block, of the text whose place it takes."""
    kind: type[str] = type(like) if isinstance(like, ScalarString) else DoubleQuotedScalarString
    return kind(text)


class _Representer(RoundTripRepresenter):
    def represent_float(self, data: float) -> ScalarNode:
        if not math.isfinite(data):
            return super().represent_float(data)
        text = repr(data)
        # In YAML 1.1, 1e-05 is a text.
        return self.represent_scalar("tag:yaml.org,2002:float", text if "." in text else text.replace("e", ".0e"))


_Representer.add_representer(float, _Representer.represent_float)


def _yaml() -> YAML:
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 1 << 20  # nothing is folded
    return yaml
