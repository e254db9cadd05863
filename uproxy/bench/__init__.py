"""`uproxy bench`: what does each path from a client to a pod really cost?"""
