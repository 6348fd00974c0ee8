"""A small Kubernetes API server: `store` keeps objects and their history, `server` speaks HTTP, `resources` is the table of kinds,
`events` knows what a real server demands of events, `schema` of custom objects, `defaults` what it adds to new objects.
"""
