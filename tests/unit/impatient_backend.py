"""A backend process that waits less long than others for frames to receive packets in."""

from __future__ import annotations

import sys

from harness.backend import __main__, net_rx

PATIENCE = 0.1

if __name__ == "__main__":
    net_rx.PATIENCE = PATIENCE
    sys.exit(__main__.main())
