// Package esmtp is what every speaker of SMTP needs, whichever side it is on:
// command lines and replies (RFC 5321, sections 2.3.8 and 4.2), the keywords in
// the reply to EHLO (section 4.1.1.1), paths, addresses and domain names (section
// 4.1.2), and enhanced status codes (RFC 3463 and 2034).
//
// Commands are read strictly and replies leniently. Two servers that do not see
// the same commands in the same bytes are a hole in one of them, while a reply
// goes no further than to whoever reads it.
//
// The package knows neither commands nor dialogues, sets no deadlines, and leaves
// it to its users which of all this they take: etrnd/odmr, etrnd/deliver and
// etrnd/receive. Servers and clients for mail in general are go-smtp's.
package esmtp
