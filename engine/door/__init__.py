"""The door: what is posted -> an answer; the admin side; and the sockets, servers and gateways that both stand on."""
