"""The drill: the whole system under load, killed and stopped at random, and then checked.

`plan` says what is to happen, `load` asks the processes, `faults` hits them,
`check` compares what was confirmed with what is there, `report` prints that; `conduct` runs all.
"""
