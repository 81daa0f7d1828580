// Package browser tests the pages of agents and registrars in Chromium: live, by keyboard, on a
// phone, in the light and in the dark. It is a module of its own so that nothing of it is among
// the dependencies of Muster, and it tests the command as it is built, from outside.
//
//	go test -C tools/browser .            # skipped where there is no Chromium
//	go test -C tools/browser . -update    # makes the pictures of docs/images
package browser
