"""Variables that look like misspelled settings. Pure."""

import difflib
import re
from collections.abc import Mapping, Sequence

# Kubernetes and Docker describe each service near a container in such variables.
_SERVICE_NAME = re.compile(r"\w+_(SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
_OUR_PREFIX = re.compile(r"TRUTO_|RAPIDBRIDGE_")
# Shorter names resemble those of other programs.
_MIN_NAME_CHARS = 8


def find_unknown_settings(variables: Mapping[str, str], setting_names: Sequence[str]) -> list[str]:
    """Return a problem for each variable with a name close to an unset setting's, or with our prefix."""
    problems = []
    candidates = [name for name in setting_names if name not in variables and len(name) >= _MIN_NAME_CHARS]
    for name in sorted(variables.keys() - set(setting_names)):
        if _describes_service(name, variables[name]):
            continue
        near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.87)
        if near:
            problems.append(f"{name}: unknown setting. Did you mean {near[0]}?")
        elif _OUR_PREFIX.match(name):
            problems.append(f"{name}: unknown setting. Unset it, or use one of: {', '.join(setting_names)}.")
    return problems


def _describes_service(name: str, value: str) -> bool:
    if name.endswith("_PORT") and _SERVICE_ADDRESS.match(value):
        return True
    return _SERVICE_NAME.fullmatch(name) is not None
