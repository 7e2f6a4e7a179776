"""`headroom forget`; the work is in `cordons`."""

from serve_app.commands.cordons import cordon_command

command = cordon_command("forget", "Drop what is known of a device or node that was taken out for good.")
