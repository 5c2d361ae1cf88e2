//! The seed that an image carries before a program or a person has said what the card will be.

/// The file for those who write cards with any imager: every value is there, empty, with a remark that says what belongs into it.
/// Untouched it is refused by [`super::Seed::parse`] with a problem for each line that must be filled in; what may stay empty may stay.
pub fn template() -> &'static str {
    "\
# What this board is. Fill in what is missing between the \"quotes\" with any text editor (Notepad, TextEdit), save the file, and put
# the card into the board. Lines that begin with # are remarks. Nothing else on this card needs to be changed.
# If something here is wrong, the board's LED shows it and a file minidc-problem.txt appears beside this one.

# Name of the cluster: small letters, digits, hyphens. The same on all cards, for example \"rack1\".
cluster = \"\"

# Name of this board: small letters, digits, hyphens. Another one on each card, for example \"pi-1\".
name = \"\"

# \"server\" on one card: it keeps the cluster together. \"node\" on all others.
role = \"\"

# Only for a node: what lets it join, once. On the server, \"minidc token create --node NAME\" prints one. A server leaves this empty.
token = \"\"

# Your public SSH key (the line in a file that ends in .pub), to log in as root with ssh. Without one there is no SSH at all, and
# nobody can ask the server for a token or for its kubeconfig.
ssh_keys = \"\"

# Where the server is, for example \"192.168.1.10\". Leave it empty: boards find each other on their network.
server = \"\"

# Wi-Fi, for boards without a cable; leave all three empty otherwise. An open network has no line \"password\".
# Country: two capital letters, for example \"DE\" or \"US\"; they decide which channels are allowed.
[wifi]
ssid = \"\"
password = \"\"
country = \"\"
"
}
