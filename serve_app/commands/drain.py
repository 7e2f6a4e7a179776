"""`headroom drain`; the work is in `cordons`."""

from serve_app.commands.cordons import cordon_command

command = cordon_command("drain", "Move everything off a device, or off all devices of a node, and place nothing new.")
