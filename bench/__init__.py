"""The benchmark: what the shop does, against others that do the same work in the same run.

`figures` has a module for each group of figures, and `contestants` what they are compared with;
`turns` lets contestants take turns, `load` asks servers, `processes` starts everything, `findings`
judges, `report` and `chart` show.
"""
