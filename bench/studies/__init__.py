"""Single measurements that back a statement in the docs."""
