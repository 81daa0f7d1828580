//go:build !musterfault

package casauthority

func rulesInForce() rules { return soundRules() }
