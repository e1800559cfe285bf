"""The drill: the whole system under load, killed and stopped at random, and then checked.

`plan` says what is to happen, `system` holds the processes, `load` asks them, `faults` hits them,
`check` compares what was confirmed with what is there, and `report` tells; `conduct` plays it all.
"""
