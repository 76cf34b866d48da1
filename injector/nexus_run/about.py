"""What `nexus-run` says about itself."""

VERSION = "0.1.0"
VERSION_LINE = f"nexus-run {VERSION}\n"
HELP = """\
Usage: nexus-run [OPTIONS] [--] COMMAND [ARGUMENT...]

Start COMMAND with the secrets of a service in its environment, and become it: same process, same terminal, its own
exit status. The values come from a running nexus-agent. Options end at the first word that is none.

Select
  --service NAME     which service; needed when the agent keeps several     [NEXUS_RUN_SERVICE]
  --configs          configs as well; a secret wins over a config           [NEXUS_RUN_CONFIGS=1]
  --flags            feature flags as well, as true or false                [NEXUS_RUN_FLAGS=1]

Agent
  --socket PATH      its socket [$XDG_RUNTIME_DIR/nexus-agent/agent.sock if it is there,
                     else /run/nexus-agent/agent.sock]                      [NEXUS_RUN_SOCKET]
  --agent-uid USER   believe an agent of this user, name or number; needed only where others than
                     root and that user may write to a directory on the way [NEXUS_RUN_AGENT_UID]

  -h, --help         this text
  --version          the version

stripe.secret_key becomes STRIPE_SECRET_KEY; a file secret gives the path of its file. Secrets win over what is
inherited. NEXUS_API_KEY, WESTYX_DEV_TOKEN and NEXUS_RUN_* are not handed on.

Exit status: COMMAND's own; 127 COMMAND not found, 126 not executable, 125 anything of ours before its start.
There is no shell: a script needs its own first line #!...
"""
