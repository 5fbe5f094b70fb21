"""The commands: one parser and one ``main(argv=None) -> int`` each."""

from cgc.commands.pairing import require_torchvision

require_torchvision()
