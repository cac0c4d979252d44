package seedpool

// Version is sprout's own. It is a part of every seed: another version may bind instances in another way.
const Version = "0.1.0"
