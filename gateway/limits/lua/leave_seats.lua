-- A node is there no more, and its seats count no more. KEYS[1]: who is there. ARGV[1]: this node.
return redis.call('HDEL', KEYS[1], 'node:' .. ARGV[1])
