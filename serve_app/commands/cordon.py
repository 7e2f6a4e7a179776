"""`headroom cordon`; the work is in `cordons`."""

from serve_app.commands.cordons import cordon_command

command = cordon_command("cordon", "Place nothing new on a device, or on all devices of a node. What runs there stays.")
