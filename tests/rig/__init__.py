"""What the tests are built with: processes, a recorded Nexus, a clock, and the search for the canary."""
