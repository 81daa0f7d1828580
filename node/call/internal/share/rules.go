package share

// rules are those that the tests break, one at a time.
type rules struct {
	fresh    bool // a master grants nothing unless it has read lately that it reigns
	expiry   bool // what has expired is free only if the reign was confirmed after that
	recover  bool // what is not known to a new master may be held still
	adopt    bool // it counts as known what those hold alone who have taken its answer
	says     bool // a holder keeps no larger part than it says it has
	confirm  bool // what a holder is to give back is free once it says so
	drift    bool // the master counts longer than the holder
	sent     bool // the holder counts from before it has asked
	latest   bool // it takes no answer but that to its latest request
	order    bool // the master serves no request after a later one
	serial   bool // nor one of a holder that has gone over to a later reign
	scale    bool // a share is a part: a lowered total lowers it
	end      bool // the holder ends what it has no place for any more
	identity bool // a master looks whose reign is recorded, each time that it reads
}

func soundRules() rules {
	return rules{true, true, true, true, true, true, true, true, true, true, true, true, true, true}
}
