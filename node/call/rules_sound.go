//go:build !musterfault

package call

func rulesInForce() rules { return soundRules() }
