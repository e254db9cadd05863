"""`python -m uproxy`."""

from uproxy.cli import main

raise SystemExit(main())
