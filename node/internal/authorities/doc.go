// Package authorities keeps two providers from making two masters.
//
// Two nodes that are granted mastership by different providers could both be master. While a
// cluster moves from one provider to another there is a step in which both must grant:
// [RequireBoth] is the authority of that step. As defence in depth, for a step that was
// skipped, each node gossips the names of its authorities, and is no candidate while there
// is a [Conflict] with a member, nor before it has met one of the others (see [Peers]). That
// promises nothing: a node can be a candidate before it has learned of the others.
//
// # Records
//
// The records of a cluster (driver.Store) move with its mastership. [Records] reads and writes
// them where they are, while [Records.Mirror] copies them, and moves them.
//
// Each store has a marker, at muster/marker, that says what the store is: truth (it has the
// records; so does one without a marker), mirror (of a peer), or sealed (they have moved to a
// peer). A mirror keeps what it copies in a space of its own, muster/space/EPOCH/, and so do the
// records stay there once the mirror is the truth. The epoch is a new one each time that a mirror
// begins, so that a mirror never meets a record that is not its own: what was in the store before
// is neither changed nor deleted.
//
// To move them, a node takes these steps, each of which is one compare-and-set, can be taken
// again, and can be followed by the next one on another node:
//
//  1. It raises the round of the mirror's marker.
//  2. It seals the store that has the records.
//  3. It makes the mirror equal to the sealed store, and writes also what is equal.
//  4. It makes the mirror the truth, if its round is still the same.
//
// Why no write is lost: a node looks at the marker again after each read and each write. If that
// still says truth, the operation was carried out before the seal, and step 3 finds what it wrote.
// If not, a read is repeated, and the error of a write says that it may have happened or not.
//
// Why none comes back: what a mirror sends may arrive late, when the records have moved and were
// changed since. Each such write replaces a revision that its sender has read, and the sender has
// looked at the round after it read. If the round was raised later, step 3 found the same revision
// and replaced it. If it was raised before, the sender has not sent. Only a new record has no
// revision to replace: it begins as a tombstone, which stands for no record, however late it
// comes. Deleted records are tombstones in a mirror, so that no revision comes again.
//
// The model in records_model_test.go holds this over random histories with crashes, lost and late
// operations, several nodes that mirror, and writers of one authority alone; it notices when any
// of these rules is broken.
package authorities
