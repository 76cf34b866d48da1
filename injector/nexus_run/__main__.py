"""`python3 -m nexus_run`: for an installation whose packages only its own interpreter finds."""

from nexus_run.start import main

main()
