"""A model behind an address: pictures in, masks out, within limits that are checked first.

``segzoo serve`` runs it; :func:`create_app` makes the application for a server of your own. Both
need ``pip install "segzoo[serve]"``.
"""

from .app import create_app
from .limits import Limits

__all__ = ["Limits", "create_app"]
