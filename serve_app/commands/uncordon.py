"""`headroom uncordon`; the work is in `cordons`."""

from serve_app.commands.cordons import cordon_command

command = cordon_command(
    "uncordon", "Lift a cordon or drain of the same name. A quarantine ends only by a passed probe."
)
