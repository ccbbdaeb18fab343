"""What commands do as functions with typed keywords, for notebooks and programs: `zoplat.run`, `zoplat.compare`, …"""
