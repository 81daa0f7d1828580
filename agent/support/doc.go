// Package support puts together what a report of a bug needs: items, each collected within a time
// limit of its own, in one archive (tar, gzip). An item that fails holds the error, so that an
// archive can be made while nothing works.
//
// It shows no secret: the maker of an item leaves them out, and a [Scrubber] then takes out of
// each what is known to be one, and the passwords of URLs.
package support
