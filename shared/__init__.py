"""What every process uses: messages, the bus, the loop, settings, logging, errors, health, kill points.

Nothing here imports a component.
"""
