"""`actadd play`: a playground in the browser, on this machine only."""

import argparse
from typing import Any

from actadd_lens.cli.options import add_model
from actadd_lens.errors import SettingError


def add(commands: Any) -> None:
    """Add the command and its options."""
    play = commands.add_parser(
        "play", help="open a playground in the browser, on this machine: steer, inspect and measure"
    )
    add_model(play)
    play.add_argument("--lens", metavar="FILE", help="a J-lens of the model (safetensors, or a published .pt)")
    play.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    play.add_argument("--no-browser", action="store_true", help="only print the address")
    play.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if not 0 <= options.port <= 65535:
        raise SettingError(f"--port is {options.port}: expected 0 to 65535.")
    from actadd_lens.play.server import HERE, app_of, missing

    try:
        import uvicorn
    except ImportError:
        raise missing() from None
    print(f"Loading {options.model} ...", flush=True)
    from actadd_lens.analysis.lens import JacobianLens
    from actadd_lens.models import load_model
    from actadd_lens.play import Session

    model = load_model(options.model, family=options.family, device=options.device, dtype=options.dtype)
    lens = None if options.lens is None else JacobianLens.load(options.lens)
    app = app_of(Session(model, options.model, lens))
    config = uvicorn.Config(app, host=HERE, port=options.port, log_level="warning", timeout_graceful_shutdown=1)
    try:
        socket = config.bind_socket()
    except SystemExit:
        raise SettingError(f"Port {options.port} is taken: choose another --port, or 0 for a free one.") from None
    address = f"http://{HERE}:{socket.getsockname()[1]}"
    print(f"The playground is at {address} (press Ctrl+C to stop)", flush=True)
    if not options.no_browser:
        import webbrowser

        webbrowser.open(address)
    uvicorn.Server(config).run(sockets=[socket])
    return 0
