// Package grammar decides which services of a container are registered, and how: from its
// published ports and from its labels and variables that begin with SERVICE_, as
// gliderlabs/registrator has them. The README has the grammar.
//
// [Rules] are those of a host; [Rules.Services] applies them to one container. It asks nobody and
// does not block.
package grammar
