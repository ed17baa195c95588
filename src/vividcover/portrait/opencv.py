"""OpenCV without its type stubs, which refuse float images, absent maps and the arrays that it itself returns."""

from __future__ import annotations

from typing import Any

import cv2 as _cv2

cv2: Any = _cv2
