"""A checker that knows toril only from outside: it calls real instances, harms them, and judges what it has seen.

`plan` decides by a seed what callers ask, how endpoints answer, and which faults happen when. `run` carries that out:
`caller` and the modules of the doors make the calls, `endpoint` is where requests arrive, `faults` harms the `fleet`,
and `relay` stands between toril and its stores. `case` is the record of it all, which `judge` reads afterwards.
"""
