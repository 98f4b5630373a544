"""The embedded stack: a broker, a store, stream workers and a scorer on one machine, from pip alone.

Enters: settings. Leaves: running processes and `stack.json`, which tells everyone else where they listen. Called by
`nowrank up`, the demo and the tests.
"""

from infra.embedded.control import run_stack, start_stack, stop_stack
from infra.embedded.local_servers import EmbeddedServers
from infra.embedded.plan import PARTS
from infra.embedded.stack_file import running_stack

__all__ = ["PARTS", "EmbeddedServers", "run_stack", "running_stack", "start_stack", "stop_stack"]
