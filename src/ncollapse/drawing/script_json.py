"""Data inside a page, as JSON that no name can break."""

import json


def to_script_json(value: object) -> str:
    """JSON for a ``<script type="application/json">``: nothing in it can end the script or start a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
