// Package checker reads what every process of a cluster recorded while it was
// attacked, and what the attacker did, and says which promise was broken.
//
// A [Run] is put together by a harness: the histories that the nodes kept (package
// node/history), the notes of the programs that work as master, the log of a
// register that they all write to, and the harness's own record of which process
// lived when, was paused, or could not hear which others. All times are nanoseconds of one
// boot clock, so that they can be compared across processes.
//
// What the histories show by themselves is verified by package node/history/check, which users
// run over their own. [Check] adds what a harness knows, and names in each [Violation]:
//
//	I1   a term belongs to one mastership, ever
//	I2   no two masterships, and no work of one beside another mastership
//	I3   the fenced register accepts no term lower than one before
//	I4   terms rise
//	I5   no master without a majority, for longer than it takes to notice
//	I6   who says that it is master says so before its deadline
//	I7   beginnings and ends alternate, and so do the functions that are told
//	I8   what a node knows of the master only goes on to later terms, and is cleared
//	I9   after the last fault has healed there is one master, and one component
//	I10  one cluster id, ever
//	I11  the registry lists those who live, and nobody else
//	I12  who is named master was active in that term before
//	I14  a step runs once, or as often as it may, and gates say what is so
//	I15  no scheduled time of a job runs twice, and no two runs of one go on at a time
//	REG  the register is linearisable
//
// A run without any mastership proves nothing, and is a violation too.
package checker
