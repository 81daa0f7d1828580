// Package page serves what a person sees of an agent or of a registrar in a browser: at / the
// facts as they are now, and a timeline of what has happened since the start.
//
// The server renders all of it, so that it can be read without JavaScript. The script only
// asks for the same page again, as soon as the stream of events has something new and every few
// seconds, and replaces the sections that differ. Nothing is loaded from elsewhere, and nothing
// that members, providers or containers say of themselves is ever markup or script: the templates
// escape it, and the content security policy lets nothing else run.
//
// A page is a list of sections, each with a template of its own: see node.go and registrar.go.
//
// What may be read is for httpapi.Options to say, as for the rest of the API. Where that wants
// a token, the page asks for it once and keeps a session: see httpapi.Sessions.
package page
