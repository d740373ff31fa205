"""``python -m einkorn`` is the einkorn command."""

from ._entry import main

main()
