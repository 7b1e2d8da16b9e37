"""How one configuration is measured on one service group."""
