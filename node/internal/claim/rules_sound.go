//go:build !musterfault

package claim

func rulesInForce() rules { return soundRules() }
