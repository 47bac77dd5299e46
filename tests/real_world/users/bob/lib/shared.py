NAME = "bob"
