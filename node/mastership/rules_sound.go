//go:build !musterfault

package mastership

func rulesInForce() rules { return soundRules() }
