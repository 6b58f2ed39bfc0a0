"""XenStore: the tree every domain is configured and discovered through, its rules, its server and its client."""
